// Node's http on the master's socket: says ready by Einhorn's ack, and ends each connection with an answer when asked to leave.
const http = require('http');
const net = require('net');

let retiring = false;

const server = http.createServer((request, response) => {
  setTimeout(() => {
    if (retiring) response.setHeader('Connection', 'close');
    const body = `${process.env.EINHORNPY_GENERATION} ${process.pid}\n`;
    response.setHeader('Content-Length', Buffer.byteLength(body));
    response.end(body);
  }, 1000 * Number(request.url.split('/slow/')[1] || 0));
});
server.keepAliveTimeout = 2000; // Node's default is 5000

server.listen({ fd: 3 }, 2048, () => {
  const ack = JSON.stringify({ command: 'worker:ack', pid: process.pid });
  net.connect(process.env.EINHORN_SOCK_PATH).end(ack + '\n');
});

process.on('SIGTERM', () => {
  retiring = true;
  // http.Server's own close() would close idle connections at once. Node exits when the last connection is over.
  net.Server.prototype.close.call(server);
});
