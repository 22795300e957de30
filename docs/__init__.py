"""The pages of the site, and the macros that fill them."""
