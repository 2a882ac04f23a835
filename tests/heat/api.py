"""What the machines of tests/heat/machines reach outside: Heat's signals, and the operator's files.

usage: api.py STATE. Serves STATE/files below /files/, and keeps each signal in STATE/signals by the digest of its path.
"""

import hashlib
import http.server
import os
import shutil
import sys

STATE = sys.argv[1]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = os.path.join(STATE, 'files', os.path.basename(self.path))
        if not os.path.isfile(path):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header('Content-Length', str(os.path.getsize(path)))
        self.end_headers()
        with open(path, 'rb') as file:
            shutil.copyfileobj(file, self.wfile)

    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        if not self.path.endswith('/signal') or not self.headers.get('X-Auth-Token'):
            self.send_error(401)
            return
        path = os.path.join(STATE, 'signals', hashlib.sha256(self.path.encode()).hexdigest())
        with open(path + '.new', 'wb') as file:
            file.write(body)
        os.rename(path + '.new', path)
        self.send_response(200)
        self.send_header('Content-Length', '0')
        self.end_headers()

    def log_message(self, *words):
        pass


http.server.ThreadingHTTPServer(('0.0.0.0', 8004), Handler).serve_forever()
