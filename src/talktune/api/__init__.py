"""What the commands do, as functions: the command line and notebooks call these."""
