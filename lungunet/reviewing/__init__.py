"""Mend masks in the browser: a page, its server, and what they leave behind."""
