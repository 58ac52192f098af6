"""Step 2 of the Train tab: pictures of the new thing with their captions and checks, and class pictures."""
