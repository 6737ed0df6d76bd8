"""The labelling web app: paint good and bad hands on the token grid, in the browser."""
