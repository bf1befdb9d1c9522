"""What travels over HTTP: bodies, protocols, errors."""
