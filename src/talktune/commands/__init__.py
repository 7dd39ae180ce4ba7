"""What each command does, one a file; `talktune.cli` only parses, calls and prints."""
