"""Files: found, opened within limits, decoded, locked, and written whole."""
