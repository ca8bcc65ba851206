"""What steers the master: commands, upgrades, hooks, and its own replacement."""
