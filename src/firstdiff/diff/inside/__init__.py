"""Below the level of modules: which function inside a module goes wrong, matched by value on both sides."""
