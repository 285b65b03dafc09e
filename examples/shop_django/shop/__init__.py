"""The shop: orders as rows, and a saga that pays and ships each."""
