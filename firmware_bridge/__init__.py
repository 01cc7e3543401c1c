"""What sensors say: codecs for their notifications, and the tool that pairs them."""
