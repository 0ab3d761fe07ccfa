"""Files of weights looked through before they are loaded."""
