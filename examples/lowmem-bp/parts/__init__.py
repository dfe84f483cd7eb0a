"""What the recipes share; nothing here is part of the package."""
