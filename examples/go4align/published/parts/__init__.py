"""What the four protocols are made of; nothing here is part of the package."""
