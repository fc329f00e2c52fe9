"""Trained networks that ship with the package: data, read by `lensnb.learn.weights`."""
