"""One parser, one help text and one error handler for every command."""
