import os

from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["POSTGRES"], open=False, min_size=1, max_size=4,
                      kwargs={"autocommit": True})


def answer(token):
    with pool.connection(timeout=5) as connection:
        return connection.execute("SELECT %s, pg_sleep(0.005)", [token]).fetchone()[0]


post_fork = pool.open
if "ADVISED" not in os.environ:
    pool.open()
    answer("imported")
