"""What runs inside the app's own processes, in the app's own Python: the standard library alone."""
