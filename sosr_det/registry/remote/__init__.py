"""The registry on an object store (S3, GCS, Azure, HTTP, ...): the same layout, behind a verified local cache.

``fsspec`` is imported when such a registry is first asked for something, never before.
"""
