"""The pages behind the link of a notice; `rendering` makes them."""
