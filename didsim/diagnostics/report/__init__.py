"""A diagnosis, for its reader.

terminal  on a terminal
files     as a page, as Markdown, as JSON and as pictures
"""
