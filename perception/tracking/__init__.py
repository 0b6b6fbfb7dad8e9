"""Association, filters and late fusion."""
