"""The API described: the OpenAPI 3.1 document, made from the code, and a page on which people read it."""
