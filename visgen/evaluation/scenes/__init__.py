"""What a picture of the scenes world shows, and whether that was asked: a checker network and its judge."""
