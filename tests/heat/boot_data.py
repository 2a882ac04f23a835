"""What a server is given at its first boot: user data, metadata and rules of its ports."""

import base64
import email
import glob
import json
import os
import re
import subprocess
import tempfile

import jsonschema
import yaml

TOKEN = 'X-Auth-Token'
SECRETS = '/etc/stacktira/secrets/'
# Which of the cluster's secrets a role has.
HAS = {'infra': {'cluster', 'control', 'hyper', 'management'}, 'control': {'cluster', 'control'}, 'proxy': {'cluster'}, 'hyper': {'cluster', 'hyper'}, 'build': set()}


def parts(user_data):
    """(type, file name, text) of each part."""
    message = email.message_from_string(user_data)
    return [(part.get_content_type(), part.get_filename(), part.get_payload(decode=True).decode())
            for part in message.walk() if not part.is_multipart()]


def _run(command, path):
    done = subprocess.run([*command, path], capture_output=True, text=True, timeout=60, check=False)
    return '' if done.returncode == 0 else ' '.join((done.stdout + done.stderr).split())


def check(server, schema, findings, seen):
    """Findings of one server; `seen` holds scripts that were checked."""
    def find(text):
        findings.append(f'{server.name}: {text}')

    if not server.config_drive:
        find('has no config drive: the first boot would depend on the metadata service')
    kinds = [kind for kind, _name, _text in parts(server.userdata)]
    if sorted(kinds) != ['text/cloud-config', 'text/x-shellscript']:
        find(f'parts of its user data are {kinds}')
    for kind, name, text in parts(server.userdata):
        if kind == 'text/cloud-config':
            _cloud_config(server, text, schema, find)
        elif text not in seen:
            seen.add(text)
            with tempfile.TemporaryDirectory() as directory:
                path = os.path.join(directory, name)
                with open(path, 'w', encoding='utf-8') as file:
                    file.write(text)
                for command in (['bash', '-n'], ['sh', '-n'], ['shellcheck', '--norc', '-S', 'style']):
                    said = _run(command, path)
                    if said:
                        find(f'{" ".join(command)} {name}: {said}')
            if TOKEN in text:
                find(f'{name} holds what belongs into a file of mode 0600')
    _metadata(server, find)
    _ports(server, find)


def _cloud_config(server, text, schema, find):
    if not text.startswith('#cloud-config\n'):
        find('cloud-config without its first line')
    config = yaml.safe_load(text)
    if schema is not None:
        for error in jsonschema.Draft4Validator(schema).iter_errors(config):
            find(f'cloud-config: {"/".join(map(str, error.path))}: {error.message}')
    if config['hostname'] != server.name or not config['fqdn'].startswith(server.name + '.'):
        find(f'is called {config["hostname"]} and {config["fqdn"]}')
    secrets = {file['path'].removeprefix(SECRETS): file for file in config['write_files'] if file['path'].startswith(SECRETS)}
    if set(secrets) != HAS[server.metadata['role']]:
        find(f'has the secrets {sorted(secrets)}')
    for name, file in secrets.items():
        if not re.fullmatch('[A-Za-z0-9]{32,}', file['content']) or file['permissions'] != '0600':
            find(f'secret {name}: {len(file["content"])} characters, mode {file["permissions"]}')
        if file['content'] in json.dumps(server.metadata):
            find(f'secret {name} is in the metadata')
    for file in config['write_files']:
        content = file['content']
        if file.get('encoding') == 'b64':
            content = base64.b64decode(content, validate=True).decode()
        if not content.strip():
            find(f'{file["path"]} is empty')
        if TOKEN in content and file['permissions'] != '0600':
            find(f'{file["path"]} has a token and mode {file["permissions"]}')
        if file['path'] == '/etc/stacktira/address' and content not in [ip['ip_address'] for port in server.ports for ip in port['fixed_ips']]:
            find(f'is told the address {content}, which it has not')


def _metadata(server, find):
    for key in ('role', 'provider', 'domain', 'mirror_address', 'mirror_channel', 'repos_manifest'):
        if not server.metadata.get(key):
            find(f'metadata has no {key}')
    if server.name.rstrip('0123456789') != server.metadata.get('role'):
        find(f'has the role {server.metadata.get("role")}')
    text = json.dumps(server.metadata)
    if TOKEN in text or 'PRIVATE' in text:
        find('a secret is in the metadata')


def _ports(server, find):
    for port in server.ports:
        if not port.get('security_groups'):
            find('a port has no security group of ours')


def controls(servers, findings):
    """Every node of a cluster knows who is one cluster of databases: all control nodes, where there are several."""
    cluster = [server for server in servers if server.metadata['role'] != 'build']
    named = sorted((server.name, server.ports[0]['fixed_ips'][0]['ip_address']) for server in cluster if server.metadata['role'] == 'control')
    wanted = ','.join('='.join(pair) for pair in named) if len(named) > 1 else None
    for server in cluster:
        if server.metadata.get('control_nodes') != wanted:
            findings.append(f'{server.name}: control_nodes is {server.metadata.get("control_nodes")!r}, and they are {wanted!r}')


def rules(neutron, allowed, findings):
    """No rule lets more in than the networks that were given, and nodes of the group."""
    for group in neutron.things.get('security_group', {}).values():
        for rule in group['security_group_rules']:
            if rule.get('direction', 'ingress') != 'ingress' or rule.get('remote_group_id') == group['id']:
                continue
            if rule.get('remote_ip_prefix') not in allowed:
                findings.append(f'{group["name"]}: lets {rule.get("remote_ip_prefix") or "everybody"} in on '
                                f'{rule.get("protocol")} {rule.get("port_range_min")}-{rule.get("port_range_max")}')


def schema(directory):
    """cloud-init's own schema, or None."""
    found = glob.glob(os.path.join(directory, '**', 'schema-cloud-config-v1.json'), recursive=True)
    if not found:
        return None
    with open(found[0], encoding='utf-8') as file:
        return json.load(file)
