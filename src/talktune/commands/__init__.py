"""The commands, one a file: signature, help and work. What is heavy to import is imported inside of them."""
