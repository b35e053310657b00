"""A server that takes mails, and prints each as a line of JSON. Its first line is the port on which it listens.

mail.py SECURITY CERTIFICATE KEY [held]; SECURITY is tls, starttls or plain. With TLS, it asks for user `u` and password
`hunter2`. One that is held answers no mail until a line of its input says `answer`.
"""

import asyncio
import email.policy
import json
import ssl
import sys

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult


class Printer:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("unknown@"):
            return "550 5.1.1 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        print(
            json.dumps(
                {
                    "from": envelope.mail_from,
                    "to": envelope.rcpt_tos,
                    "subject": mail["subject"],
                    "id": mail["message-id"],
                    "automatic": mail["auto-submitted"],
                    "text": mail.get_content(),
                    "tls": server.transport.get_extra_info("ssl_object") is not None,
                    "authenticated": bool(session.authenticated),
                }
            ),
            flush=True,
        )
        await answers.wait()
        return "250 2.0.0 taken"


def login(server, session, envelope, mechanism, data):
    # Not handled: the server itself has to refuse it.
    return AuthResult(success=data.login == b"u" and data.password == b"hunter2", handled=False)


answers = asyncio.Event()
if sys.argv[4:] != ["held"]:
    answers.set()

security, certificate, key = sys.argv[1:4]
context = None
if security != "plain":
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
settings = {"authenticator": login, "auth_required": security != "plain"}
if security == "starttls":
    settings |= {"tls_context": context, "require_starttls": True}
else:
    settings |= {"auth_require_tls": False}


class OnAnyPort(Controller):
    """The controller of aiosmtpd connects to the port that it was given, and so takes no 0."""

    def _trigger_server(self):
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


wrapped = context if security == "tls" else None
controller = OnAnyPort(Printer(), hostname="127.0.0.1", port=0, ssl_context=wrapped, **settings)
controller.start()
print(controller.port, flush=True)
for line in sys.stdin:
    controller.loop.call_soon_threadsafe(answers.set)
