"""The gate accepts or rejects each part by its verdict."""
