"""Everything that people read: documents as data, and the HTML, PDF and charts that are made of them."""
