"""The stacks of heat/ by the real Heat engine, with servers that are real machines: Heat waits until they signal.

usage: machines.py STATE TOOLS.deb PACKAGES.tar. Called by tests/heat/machines; writes STATE/result.json.
"""

import base64
import email
import hashlib
import json
import os
import re
import subprocess
import sys

import yaml

import check
import engine


def digest(path):
    with open(path, 'rb') as file:
        return hashlib.sha256(file.read()).hexdigest()


class Machines:
    def __init__(self, state):
        self.state = state
        # Its user data is not run: the bootstrap is killed at every step there, and goes on.
        self.by_hand = set()

    def boot(self, server):
        drive = os.path.join(self.state, 'drives', server.name, 'openstack', 'latest')
        os.makedirs(drive, exist_ok=True)
        with open(os.path.join(drive, 'user_data'), 'w', encoding='utf-8') as file:
            file.write(server.userdata)
        with open(os.path.join(drive, 'meta_data.json'), 'w', encoding='utf-8') as file:
            json.dump({'name': server.name, 'hostname': server.name, 'uuid': server.id, 'meta': server.metadata}, file)
        self.files(server)
        address = server.ports[0]['fixed_ips'][0]['ip_address']
        kind = 'by-hand' if server.name in self.by_hand else 'boot'
        path = re.search(r'http://heat.invalid:8004(/[^"]*)', server.userdata).group(1)
        answer = os.path.join(self.state, 'signals', hashlib.sha256(path.encode()).hexdigest())
        subprocess.run([os.path.join(check.HERE, 'machines'), kind, server.name, address, answer], check=True, stdin=subprocess.DEVNULL)
        with open(answer, encoding='utf-8') as file:
            return json.load(file)

    def files(self, server):
        """What cloud-init would write, for a machine that is made by hand."""
        for part in email.message_from_string(server.userdata).walk():
            if part.get_content_type() != 'text/cloud-config':
                continue
            for wanted in yaml.safe_load(part.get_payload(decode=True))['write_files']:
                path = os.path.join(self.state, 'drives', server.name, 'files') + wanted['path']
                os.makedirs(os.path.dirname(path), exist_ok=True)
                content = wanted['content'].encode()
                with open(path, 'wb') as file:
                    file.write(base64.b64decode(content) if wanted.get('encoding') == 'b64' else content)
                os.chmod(path, int(wanted['permissions'], 8))


def main():
    state, tools, packages = sys.argv[1:]
    machines = Machines(state)
    site = check.Site(machines.boot)
    mirror = site.create('mirror', 'mirror.yaml', ['mirror.yaml'],
                         tools_url='http://heat.invalid:8004/files/' + os.path.basename(tools), tools_sha256=digest(tools),
                         packages_url='http://heat.invalid:8004/files/packages.tar', packages_sha256=digest(packages),
                         repos_manifest='../../../srv/repos.yaml')
    result = {'mirror': mirror}
    if mirror['stack_status'] == 'COMPLETE':
        same = {'mirror_address': mirror['values']['mirror_address'], 'mirror_key': mirror['values']['mirror_key'], 'provisioner': 'none'}
        environments = ['3role.yaml', 'small.yaml']
        result['cluster'] = site.create('cluster', '3role.yaml', environments, **same)
        if result['cluster']['stack_status'] == 'COMPLETE':
            before = site.servers()
            machines.by_hand = {'hyper2'}
            result['grown'] = site.engine.update(result['cluster'], site.read('3role.yaml', environments, infra_count=3, hyper_count=2, **same))
            result['replaced'] = [name for name, ident in before.items() if site.servers().get(name) != ident]
    with open(os.path.join(state, 'result.json'), 'w', encoding='utf-8') as file:
        json.dump(result, file, indent=1, default=str)


if __name__ == '__main__':
    main()
