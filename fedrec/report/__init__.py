"""Documents as data, and the HTML, PDF and charts that are made from them."""
