import os

import django
from django.conf import settings

settings.configure(DATABASES={"default": {
    "ENGINE": "django.db.backends.postgresql", "NAME": "postgres", "USER": "postgres",
    "HOST": "127.0.0.1", "PORT": os.environ["POSTGRES_PORT"], "CONN_MAX_AGE": None}})
django.setup()
from django.db import connection, connections


def ask(token):
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s, pg_sleep(0.005)", [token])
        return cursor.fetchone()[0]


ask("imported")
if "ADVISED" in os.environ:
    connections.close_all()
answer = ask
