"""heat/ against the real Heat engine and a cloud in memory, as TAP. `--dump DIR` keeps what the servers were given."""

import argparse
import os
import shutil
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
HEAT = os.path.join(HERE, '..', '..', 'heat')
sys.path.insert(0, HERE)

import boot_data  # noqa: E402
import cloud  # noqa: E402
import engine  # noqa: E402
import lint  # noqa: E402

CLIENTS = '203.0.113.0/24'
ADMINS = '198.51.100.0/24'
count = failed = 0


def ok(name, good, detail=''):
    global count, failed
    count += 1
    print(f'{"ok" if good else "not ok"} {count} - {name}')
    if not good:
        failed += 1
        for line in str(detail).splitlines() or ['']:
            print(f'#   {line}')
    sys.stdout.flush()


def none_found(name, findings):
    ok(name, not findings, '\n'.join(findings))


def template(name, directory=HEAT):
    return os.path.join(directory, name)


def environment(name, directory=HEAT):
    return os.path.join(directory, 'environments', name)


def success(server):
    """A node whose bootstrap went well."""
    return {'id': 'bootstrap', 'status': 'SUCCESS', 'reason': 'bootstrapped', 'data': 'S0VZ' * 20}


class Site:
    """A cloud with an engine, and the mirror's and a cluster's stack in it."""

    def __init__(self, boot=success, directory=HEAT):
        self.cloud = cloud.Cloud()
        self.engine = engine.Engine(self.cloud, lambda server: boot(server))
        self.directory = directory

    def read(self, name, environments, **parameters):
        files = [environment(e, self.directory) for e in environments]
        return self.engine.read(template(name, self.directory), files, parameters)

    def create(self, stack, name, environments, **parameters):
        return self.engine.create(stack, self.read(name, environments, **parameters))

    def servers(self):
        return {server.name: server.id for server in self.cloud.nova.all.values()}


def lints():
    for name in ('3role.yaml', 'mirror.yaml', 'node.yaml', 'controls.yaml'):
        findings = []
        lint.template(template(name), findings)
        none_found(f'{name}: strict YAML, newest version, no hidden or deprecated type, property or attribute', findings)
    for name, of, complete in (('mirror.yaml', 'mirror.yaml', True), ('3role.yaml', '3role.yaml', True),
                               ('small.yaml', '3role.yaml', False), ('large.yaml', '3role.yaml', False)):
        findings = []
        lint.environment(environment(name), template(of), findings, complete)
        none_found(f'environments/{name} fits {of}' + (' and shows every parameter' if complete else ''), findings)


def complete(name, stack, outputs):
    ok(f'{name}: {stack["stack_action"]} {stack["stack_status"]}', stack['stack_status'] == 'COMPLETE', stack['stack_status_reason'])
    findings = [f'{key}: {error}' for key, error in stack['errors'].items()]
    findings += [f'{key} is empty' for key in outputs if not stack['values'].get(key)]
    none_found(f'{name}: every output has a value', findings)


def servers_are_good(site, name, schema):
    findings, seen = [], set()
    for server in site.cloud.nova.all.values():
        boot_data.check(server, schema, findings, seen)
    largest = max(len(server.userdata) for server in site.cloud.nova.all.values())
    none_found(f'{name}: user data of {len(site.servers())} servers is clean (largest: {largest} bytes)', findings)
    findings = []
    boot_data.controls(site.cloud.nova.all.values(), findings)
    none_found(f'{name}: every node knows the control nodes where there are several', findings)
    findings = []
    boot_data.rules(site.cloud.neutron, (ADMINS, CLIENTS), findings)
    none_found(f'{name}: nobody but admin_cidr, client_cidr and the group itself is let in', findings)


def kept(name, before, after, new):
    findings = [f'{server} was replaced or removed' for server, ident in before.items() if after.get(server) != ident]
    if sorted(set(after) - set(before)) != sorted(new):
        findings.append(f'new servers: {sorted(set(after) - set(before))}, not {sorted(new)}')
    none_found(name, findings)


def life(schema, dump):
    site = Site()
    for name, environments in (('mirror.yaml', ['mirror.yaml']), ('3role.yaml', ['3role.yaml'])):
        answer = site.engine.validate(site.read(name, environments))
        ok(f'{name}: the engine validates it', 'Parameters' in answer, answer)
    mirror = site.create('mirror', 'mirror.yaml', ['mirror.yaml'])
    complete('mirror', mirror, ('mirror_address', 'mirror_key', 'login'))
    cluster = site.create('cluster', '3role.yaml', ['3role.yaml'], mirror_address=mirror['values']['mirror_address'],
                          mirror_key=mirror['values']['mirror_key'])
    complete('cluster', cluster, ('proxy_address', 'vip', 'consul_join', 'infra', 'proxy', 'control', 'hyper'))
    ok('the roles are there, numbered from 1', sorted(site.servers()) ==
       ['build1', 'control1', 'hyper1', 'infra1', 'infra2', 'infra3', 'proxy1'], sorted(site.servers()))
    by_name = {server.name: server for server in site.cloud.nova.all.values()}
    ok('everybody joins the addresses that the infra nodes have',
       all(by_name[n].metadata['consul_join'].split(',') == cluster['values']['infra'] for n in by_name if n != 'build1'), cluster['values'])
    ok('the cluster\'s address is that of proxy1', by_name['hyper1'].metadata['vip'] == cluster['values']['proxy'][0], cluster['values'])
    groups = {by_name[f'infra{n}'].hints.get('group') for n in (1, 2, 3)}
    ok('infra nodes are kept apart by one server group', len(groups) == 1 and None not in groups, groups)
    servers_are_good(site, 'cluster', schema)
    if dump:
        engine.dump(site.cloud, dump)

    outputs = mirror['values']
    same = {'mirror_address': outputs['mirror_address'], 'mirror_key': outputs['mirror_key']}
    before = site.servers()
    cluster = site.engine.update(cluster, site.read('3role.yaml', ['3role.yaml'], infra_count=5, hyper_count=3, **same))
    complete('from 3 to 5 infra and from 1 to 3 hyper', cluster, ('infra', 'hyper'))
    kept('no server is replaced, four are new', before, site.servers(), ['infra4', 'infra5', 'hyper2', 'hyper3'])
    ok('the metadata of those that stay names the new ones too',
       by_name['infra1'].metadata['consul_join'].count(',') == 4 and by_name['infra1'].metadata['consul_servers'] == '5', by_name['infra1'].metadata)
    servers_are_good(site, 'grown cluster', schema)

    newer = site.read('3role.yaml', ['3role.yaml'], infra_count=5, hyper_count=3, **same)
    script = next(name for name in newer['files'] if name.endswith('user-data.sh'))
    newer['files'][script] += '# A newer release.\n'
    before = site.servers()
    cluster = site.engine.update(cluster, newer)
    ok('a newer user-data.sh: UPDATE COMPLETE', cluster['stack_status'] == 'COMPLETE', cluster['stack_status_reason'])
    kept('replaces no server', before, site.servers(), [])
    cluster = site.engine.update(cluster, site.read('3role.yaml', ['3role.yaml'], infra_count=5, hyper_count=2, **same))
    ok('from 3 to 2 hyper: UPDATE COMPLETE', cluster['stack_status'] == 'COMPLETE', cluster['stack_status_reason'])
    ok('the last one goes', [server.name for server in site.cloud.nova.gone] == ['hyper3'], site.cloud.nova.gone)


def variants(schema):
    # Nine control nodes, with the longest prefix that there is: the list of them still fits into the metadata.
    for name, environments, size, parameters in (
            ('small', ['3role.yaml', 'small.yaml'], 4, {}), ('large', ['3role.yaml', 'large.yaml'], 16, {}),
            ('two control nodes', ['3role.yaml', 'small.yaml'], 5, {'control_count': 2}),
            ('nine control nodes', ['3role.yaml', 'small.yaml'], 12, {'control_count': '9', 'net_prefix': '192.168.142'})):
        site = Site()
        stack = site.create(name.replace(' ', '-'), '3role.yaml', environments, stage='cloud', **parameters)
        complete(name, stack, ('proxy_address', 'infra'))
        ok(f'{name}: the stage reaches every node', {server.metadata.get('stage') for server in site.cloud.nova.all.values()} == {'cloud'}, name)
        ok(f'{name}: {size} servers', len(site.servers()) == size, sorted(site.servers()))
        servers_are_good(site, name, schema)


def control_nodes_stay():
    """A cluster keeps the control nodes that it was made with; everything else may change beside them."""
    for made, wanted in ((1, 2), (2, 1), (2, 3)):
        site = Site()
        stack = site.create(f'keeps-{made}-{wanted}', '3role.yaml', ['3role.yaml', 'small.yaml'], control_count=made)
        before = site.servers()
        # A refusal is no beginning: the next try is refused too.
        for attempt in ('at once', 'again'):
            stack = site.engine.update(stack, site.read('3role.yaml', ['3role.yaml', 'small.yaml'], control_count=wanted, hyper_count=2))
            said = f'{stack["stack_status"]}: {stack["stack_status_reason"]}'
            ok(f'from {made} to {wanted} control: refused {attempt}, by its name',
               stack['stack_status'] == 'FAILED' and 'immutable' in said and 'control_count' in said, said)
            kept('before anything was done', before, site.servers(), [])
            findings = []
            boot_data.controls(site.cloud.nova.all.values(), findings)
            none_found('the metadata is as it was', findings)
        # As `--parameter` has it on the command line: a number that is text.
        stack = site.engine.update(stack, site.read('3role.yaml', ['3role.yaml', 'small.yaml'], control_count=str(made), hyper_count=2))
        ok(f'the same {made} and another hyper: UPDATE COMPLETE', stack['stack_status'] == 'COMPLETE', stack['stack_status_reason'])
        kept('no server is replaced', before, site.servers(), ['hyper2'])
        findings = []
        boot_data.controls(site.cloud.nova.all.values(), findings)
        none_found('the new one knows the control nodes', findings)


def addresses_stay():
    """Control nodes of a stack that was made before they had addresses of their own are not moved to these."""
    directory = mutated('3role.yaml', "          address_prefix: {if: [several, {get_param: net_prefix}, '']}\n          address_base: 50\n", '')
    for made, status in ((1, 'COMPLETE'), (2, 'FAILED')):
        site = Site(directory=directory)
        stack = site.create(f'earlier-{made}', '3role.yaml', ['3role.yaml', 'small.yaml'], control_count=made)
        before = {server.name: server.ports[0]['fixed_ips'][0]['ip_address'] for server in site.cloud.nova.all.values()}
        site.directory = HEAT
        stack = site.engine.update(stack, site.read('3role.yaml', ['3role.yaml', 'small.yaml'], control_count=made))
        ok(f'an earlier stack with {made} control: UPDATE {status}', stack['stack_status'] == status, stack['stack_status_reason'])
        if status == 'FAILED':
            ok('by the name of what would move', 'immutable' in stack['stack_status_reason'] and 'address_prefix' in stack['stack_status_reason'],
               stack['stack_status_reason'])
        after = {server.name: server.ports[0]['fixed_ips'][0]['ip_address'] for server in site.cloud.nova.all.values()}
        ok('every node is where it was', before == after, f'{before}\n{after}')
    shutil.rmtree(os.path.dirname(directory))


def failures():
    def boot(server):
        if server.name == 'control1':
            return {'id': 'bootstrap', 'status': 'FAILURE', 'reason': 'control1: step sources: the mirror does not answer', 'data': ''}
        return success(server)
    stack = Site(boot).create('broken', '3role.yaml', ['3role.yaml'])
    ok('a bootstrap that fails makes the stack fail', stack['stack_status'] == 'FAILED', stack['stack_status'])
    ok('with the node and the step', 'step sources: the mirror does not answer' in stack['stack_status_reason'], stack['stack_status_reason'])
    stack = Site().create('long', '3role.yaml', ['3role.yaml'], repos_manifest='x' * 300)
    ok('metadata that Nova would refuse is refused here', 'metadata repos_manifest has 300 characters' in stack['stack_status_reason'], stack['stack_status_reason'])
    for parameters, words in (({'infra_count': 4}, 'infra_count'), ({'control_count': 10}, 'control_count'), ({'control_count': 0}, 'control_count'), ({'admin_cidr': 'everybody'}, 'admin_cidr'),
                              ({'external_network': 'nowhere'}, 'external_network'), ({'mirror_address': 'ftp://x'}, 'mirror_address'),
                              ({'mirror_key': '-----BEGIN'}, 'mirror_key'), ({'stage': 'everything'}, 'stage'), ({'net_prefix': '10.0'}, 'net_prefix')):
        try:
            Site().create('wrong', '3role.yaml', ['3role.yaml'], **parameters)
            said = 'accepted'
        except Exception as error:  # the engine's own classes
            said = str(error)
        ok(f'{parameters} is refused by its name', f"'{words}'" in said or f'"{words}"' in said, said)


MUTATIONS = (
    ('3role.yaml', "    type: OS::Neutron::Router\n", "    type: OS::Nova::FloatingIP\n", 'type OS::Nova::FloatingIP is HIDDEN'),
    ('3role.yaml', "router: {get_resource: router}", "router_id: {get_resource: router}", 'property router_id is HIDDEN'),
    ('3role.yaml', "heat_template_version: 2021-04-16", "heat_template_version: 2013-05-23", 'heat_template_version'),
    ('3role.yaml', "  infra_flavor:\n", "  infra_count:\n", "is there twice"),
    ('3role.yaml', "'.41']", ".41]", 'is a fraction'),
    ('3role.yaml', "{get_param: anti_affinity}", "soft-affinity", 'parameter anti_affinity is not used'),
    ('node.yaml', "    hidden: true\n", "", 'secret_cluster is hidden and not called secret_'),
    ('node.yaml', "user_data_format: RAW", "user_data_form: RAW", 'no property user_data_form'),
    ('node.yaml', "network: {get_param: network}", "network_id: {get_param: network}", 'property network_id is HIDDEN'),
)

BOOT_MUTATIONS = (
    ('node.yaml', "permissions: '0600'", "permissions: '0644'", 'has a token and mode 0644'),
    ('node.yaml', "secrets/cluster, permissions: '0600'", "secrets/cluster, permissions: '0640'", 'secret cluster: 40 characters, mode 0640'),
    ('3role.yaml', "role: hyper\n", "role: hyper\n          secret_management: {get_attr: [secret_management, value]}\n", "has the secrets ['cluster', 'hyper', 'management']"),
    ('node.yaml', "config_drive: true", "config_drive: false", 'has no config drive'),
    ('node.yaml', "ssh_pwauth: false", "ssh_pwauth: {}", 'cloud-config: ssh_pwauth'),
    ('3role.yaml', "{protocol: icmp, remote_ip_prefix: {get_param: admin_cidr}}", "{protocol: icmp}", 'lets everybody in'),
    ('3role.yaml', 'address_base: 50\n          flavor', 'address_base: 60\n          flavor', "control_nodes is 'control1=192.168.242.51,control2=192.168.242.52', and they are 'control1=192.168.242.61"),
    ('3role.yaml', "          metadata: {get_attr: [metadata, value]}\n          mirror_key: {get_param: mirror_key}\n          secret_cluster: {get_attr: [secret_cluster, value]}\n          secret_hyper",
     "          metadata: {mirror_address: {get_param: mirror_address}}\n          mirror_key: {get_param: mirror_key}\n          secret_cluster: {get_attr: [secret_cluster, value]}\n          secret_hyper",
     'hyper1: control_nodes is None'),
    ('user-data.sh', 'rm -rf "$work"', 'rm -rf $work', 'SC2086'),
    ('user-data.sh', 'main() {', 'main() ((', 'bash -n'),
)


def mutated(file, old, new):
    directory = tempfile.mkdtemp()
    copy = os.path.join(directory, 'heat')
    shutil.copytree(HEAT, copy)
    path = os.path.join(copy, file)
    with open(path, encoding='utf-8') as source:
        text = source.read()
    assert old in text, f'{file} has no {old!r}'
    with open(path, 'w', encoding='utf-8') as target:
        target.write(text.replace(old, new))
    return copy


def these_checks(schema):
    """Would they find it?"""
    for file, old, new, words in MUTATIONS:
        findings = []
        directory = mutated(file, old, new)
        lint.template(template(file, directory), findings)
        ok(f'found in {file}: {words}', any(words in finding for finding in findings), findings)
        shutil.rmtree(os.path.dirname(directory))
    for number, (file, old, new, words) in enumerate(BOOT_MUTATIONS):
        if schema is None and 'cloud-config' in words:
            continue
        directory = mutated(file, old, new)
        site = Site(directory=directory)
        site.create(f'mutant{number}', '3role.yaml', ['3role.yaml', 'small.yaml'], control_count=2)
        findings = []
        for server in site.cloud.nova.all.values():
            boot_data.check(server, schema, findings, set())
        boot_data.controls(site.cloud.nova.all.values(), findings)
        boot_data.rules(site.cloud.neutron, (ADMINS, CLIENTS), findings)
        ok(f'found in {file}: {words}', any(words in finding for finding in findings), findings[:3])
        shutil.rmtree(os.path.dirname(directory))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--dump', metavar='DIR', help='write a config drive for each server')
    parser.add_argument('--cloud-init', metavar='DIR', default='/usr/lib/python3/dist-packages/cloudinit', help='an unpacked cloud-init, for its schema')
    parser.add_argument('--controls', metavar='N', default='1', help='control nodes of the dumped cluster')
    parser.add_argument('--only-dump', action='store_true', help='make the stacks of the sample environments, and no tests')
    options = parser.parse_args()
    if options.only_dump:
        site = Site()
        mirror = site.create('mirror', 'mirror.yaml', ['mirror.yaml'])['values']
        site.create('cluster', '3role.yaml', ['3role.yaml'], mirror_address=mirror['mirror_address'], mirror_key=mirror['mirror_key'],
                    control_count=options.controls)
        engine.dump(site.cloud, options.dump)
        return 0
    began = time.monotonic()
    schema = boot_data.schema(options.cloud_init)
    engine.Engine(cloud.Cloud(), success)
    lints()
    life(schema, options.dump)
    variants(schema)
    control_nodes_stay()
    addresses_stay()
    failures()
    these_checks(schema)
    if schema is None:
        print('# cloud-init is not here: its schema was not asked')
    print(f'# {time.monotonic() - began:.0f} s')
    print(f'1..{count}')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
