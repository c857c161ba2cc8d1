"""The command line: parse, call, print. The only room that reads the library's environment variables."""
