# TLS by gunicorn itself, not before 1.2.
import ssl

workers = 2
certfile = "certificate"
keyfile = "key"
do_handshake_on_connect = False


def ssl_context(conf, default_ssl_context_factory):
    context = default_ssl_context_factory()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
