"""What methods are put together of; each part exists once."""
