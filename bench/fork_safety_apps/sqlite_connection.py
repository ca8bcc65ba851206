import os
import sqlite3


def connect():
    global connection
    connection = sqlite3.connect(os.environ["PLACE"] + "/database", isolation_level=None)
    connection.execute("PRAGMA journal_mode=wal")
    connection.execute("CREATE TABLE IF NOT EXISTS told (token TEXT)")


def answer(token):
    connection.execute("INSERT INTO told VALUES (?)", [token])
    return connection.execute("SELECT token FROM told WHERE token = ?", [token]).fetchone()[0]


connect()
if "ADVISED" in os.environ:
    connection.close()
post_fork = connect
