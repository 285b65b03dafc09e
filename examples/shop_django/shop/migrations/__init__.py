"""The tables of the shop, and how they came to be."""
