"""What differs between transformer families, each in one file behind the `Backbone` protocol."""
