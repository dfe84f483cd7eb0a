"""What the numbered scripts share; nothing here is part of a package."""
