"""Redis: the answers' cache, the marks of messages seen, copies of bad messages. All of it may be lost at any time."""
