"""The torch modules that the built-in nodes load, train and save."""
