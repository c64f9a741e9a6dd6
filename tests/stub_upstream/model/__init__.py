"""A stand-in for albert_pytorch's package `model`, written for the tests that must run without a
checkout of it: the same interface (keys of the state dict, arguments, a tuple returned, 0.1 added
before the classifier), none of its text."""
