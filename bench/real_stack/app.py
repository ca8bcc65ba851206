"""The WSGI callable `wsgi`. Each answer says in `X-Worker` which process gave it."""

# The libraries are in the bench's own environment only.
# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator"
# mypy: allow-subclassing-any

from __future__ import annotations

import functools
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import boto3
import django
import pandas
from django.conf import settings
from django.core.cache import cache
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.template import engines
from sqlalchemy import ForeignKey, create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from .traffic import REGIONS, ROWS

settings.configure(
    ALLOWED_HOSTS=["*"], SECRET_KEY="of a benchmark", ROOT_URLCONF=__name__, USE_TZ=True,
    INSTALLED_APPS=[
        "django.contrib.admin", "django.contrib.auth", "django.contrib.contenttypes",
        "django.contrib.messages", "django.contrib.sessions", "rest_framework"],
    MIDDLEWARE=[
        f"{__name__}.says_who", "django.middleware.security.SecurityMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware"],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": [], "DEFAULT_PERMISSION_CLASSES": [],
        "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
        "UNAUTHENTICATED_USER": None})
django.setup()

# They look into the settings as they are imported.
from django.urls import path  # noqa: E402
from rest_framework import serializers  # noqa: E402
from rest_framework.decorators import api_view  # noqa: E402
from rest_framework.request import Request  # noqa: E402
from rest_framework.response import Response  # noqa: E402

WINDOW = 200  # rows that a request looks at, if it looks at several
PAGE = """<!doctype html><title>Rows from {{ start }}</title><table>
{% for row in rows %}<tr class="{% cycle 'odd' 'even' %}"><td>{{ row.number }}
<td>{{ row.name|title }}<td>{{ row.price|floatformat:2 }}
<td>{{ row.added|date:"j F Y" }}<td>{{ row.tags|join:", " }}
{% endfor %}</table>"""


@dataclass
class Row:
    number: int
    name: str
    region: str
    price: Decimal
    weight: float
    added: date
    tags: list[str]


def table() -> list[Row]:
    """The rows that the app holds, the same in every process."""
    chance = random.Random(1)
    return [
        Row(number, f"article {number} of {chance.randrange(1000)}", chance.choice(REGIONS),
            Decimal(chance.randrange(10_000)) / 100, chance.random() * 100,
            date(2020, 1, 1) + timedelta(days=chance.randrange(2000)),
            [f"tag-{chance.randrange(5000)}" for _ in range(2)]) for number in range(ROWS)]


TABLE = table()


class RowSerializer(serializers.Serializer):
    number = serializers.IntegerField()
    name = serializers.CharField()
    region = serializers.ChoiceField(REGIONS)
    price = serializers.DecimalField(max_digits=8, decimal_places=2)
    weight = serializers.FloatField()
    added = serializers.DateField()
    tags = serializers.ListField(child=serializers.CharField())


class Base(DeclarativeBase):
    pass


class Article(Base):
    __tablename__ = "articles"
    number: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    region: Mapped[str] = mapped_column(index=True)
    orders: Mapped[list[Order]] = relationship(back_populates="article")


class Order(Base):
    __tablename__ = "orders"
    number: Mapped[int] = mapped_column(primary_key=True)
    article_number: Mapped[int] = mapped_column(ForeignKey("articles.number"))
    amount: Mapped[int]
    article: Mapped[Article] = relationship(back_populates="orders")


def says_who(get_response: Callable[[HttpRequest], HttpResponse]
             ) -> Callable[[HttpRequest], HttpResponse]:

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response["X-Worker"] = str(os.getpid())
        return response

    return middleware


def window(request: HttpRequest, size: int = WINDOW) -> list[Row]:
    start = int(request.GET["start"])
    return TABLE[start:start + size]


def health(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok\n", content_type="text/plain")


@api_view(["GET"])
def rows(request: Request) -> Response:
    return Response(RowSerializer(window(request, int(request.GET["limit"])), many=True).data)


@api_view(["GET"])
def row(request: Request, number: int) -> Response:
    return Response(RowSerializer(TABLE[number]).data)


@api_view(["GET"])
def search(request: Request) -> Response:
    found = [row for row in window(request) if row.region == request.GET["region"]]
    cheapest = sorted(found, key=lambda row: row.price)[:10]
    return Response({"found": len(found), "rows": RowSerializer(cheapest, many=True).data})


@api_view(["GET"])
def summary(request: Request) -> Response:
    """By pandas, kept in Django's cache in memory."""
    key = f"summary-{request.GET['start']}"
    answer = cache.get(key)
    if answer is None:
        frame = pandas.DataFrame([(row.region, float(row.price), row.weight)
                                  for row in window(request)],
                                 columns=["region", "price", "weight"])
        answer = frame.groupby("region").agg(["mean", "max"]).round(2).to_json()
        cache.set(key, answer)
    return Response(answer)


@api_view(["GET"])
def orders(request: Request) -> Response:
    """By SQLAlchemy, from a database in memory of its own."""
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all(
            Article(number=row.number, name=row.name, region=row.region,
                    orders=[Order(amount=row.number % 7)]) for row in window(request, 10))
        session.flush()
        query = (
            select(Article.region, func.count(), func.sum(Order.amount)).join(Article.orders)
            .where(Order.amount > 1).group_by(Article.region).order_by(Article.region))
        answer = [list(line) for line in session.execute(query)]
    engine.dispose()
    return Response(answer)


@functools.cache
def storage() -> Any:
    """A client of S3, made when it is first asked for."""
    return boto3.client("s3", region_name="eu-central-1", aws_access_key_id="nobody",
                        aws_secret_access_key="nothing")


@api_view(["GET"])
def link(request: Request) -> Response:
    """A signed address, which is computed without a connection."""
    return Response(storage().generate_presigned_url(
        "get_object", Params={"Bucket": "articles", "Key": request.GET["row"]}))


@functools.cache
def page_template() -> Any:
    return engines["django"].from_string(PAGE)


def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse(page_template().render({
        "start": request.GET["start"], "rows": window(request, 20)}, request))


urlpatterns = [
    path("health", health), path("rows", rows), path("rows/<int:number>", row),
    path("search", search), path("summary", summary), path("orders", orders), path("link", link),
    path("page", page)]
wsgi = get_wsgi_application()
