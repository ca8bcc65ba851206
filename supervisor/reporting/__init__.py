"""What people and scripts are told of the pool: pure."""
