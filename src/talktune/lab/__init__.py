"""The course as experiments: each idea is one file, one command, one picture and one honest number."""
