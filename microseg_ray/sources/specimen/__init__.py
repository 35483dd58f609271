"""Which pixels show the specimen, and their intensities: info bar, columns, flat field, intensity range."""
