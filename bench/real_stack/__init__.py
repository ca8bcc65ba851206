"""An app as people have them, for `bench.sharing`: Django, Django REST framework, pandas,
SQLAlchemy, boto3, and a table that it holds in memory. It is copied to where it runs."""
