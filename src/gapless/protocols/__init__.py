"""Client protocols: a folder for each family of clients, with its wire, requests and routes."""
