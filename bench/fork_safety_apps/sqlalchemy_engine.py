import os

from sqlalchemy import create_engine, text

engine = create_engine(os.environ["POSTGRES"].replace("postgresql:", "postgresql+psycopg2:"))


def answer(token):
    with engine.connect() as connection:
        return connection.execute(text("SELECT :token, pg_sleep(0.005)"),
                                  {"token": token}).scalar_one()


answer("imported")
if "ADVISED" in os.environ:
    engine.dispose()
