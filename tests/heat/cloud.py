"""A small cloud in memory: the parts of Neutron, Nova and Glance that Heat asks when it makes our stacks.

It refuses what a real cloud refuses and a template can get wrong: names that do not exist, an address twice or
outside its subnet, a floating address whose port no router reaches, user data and metadata that are too large.
"""

import base64
import ipaddress
import itertools
import types
import uuid

from neutronclient.common import exceptions as neutron_errors
from novaclient import exceptions as nova_errors

USER_DATA_BYTES = 65535
METADATA_BYTES = 255
METADATA_ITEMS = 128


class Refused(Exception):
    """The cloud says no."""


class Neutron:
    """Answers create_X, show_X, list_Xs, update_X and delete_X for any X, with rules for those that matter."""

    def __init__(self, external_network):
        self.things = {}
        self.external = self._add('network', {'name': external_network, 'router:external': True})
        self.outside = (str(a) for a in ipaddress.ip_network('203.0.113.0/24').hosts())

    def _add(self, kind, body):
        thing = dict(body, id=str(uuid.uuid4()), status='ACTIVE', admin_state_up=True)
        self.things.setdefault(kind, {})[thing['id']] = thing
        return thing

    def _get(self, kind, name_or_id):
        for thing in self.things.get(kind, {}).values():
            if name_or_id in (thing['id'], thing.get('name')):
                return thing
        raise neutron_errors.NotFound(message=f'{kind} {name_or_id} could not be found')

    def find(self, kind, name_or_id):
        return self._get(kind, name_or_id)['id']

    def __getattr__(self, name):
        verb, _, kind = name.partition('_')
        if verb == 'create':
            return lambda body: {kind: self._create(kind, body[kind])} if kind in body else self._rules(body)
        if verb == 'show':
            return lambda ident, **_: {kind: self._get(kind, ident)}
        if verb == 'list':
            return lambda **filters: {kind: self._list(kind.removesuffix('s'), filters)}
        if verb == 'update':
            return lambda ident, body: self._get(kind, ident).update(body[kind])
        if verb == 'delete':
            return lambda ident: self.things[kind].pop(self._get(kind, ident)['id'])
        raise AttributeError(name)

    def _list(self, kind, filters):
        if kind == 'extension':
            return [{'alias': 'router'}, {'alias': 'security-group'}]
        wanted = {k: v for k, v in filters.items() if k in ('name', 'id', 'device_id')}
        return [t for t in self.things.get(kind, {}).values() if all(t.get(k) == v for k, v in wanted.items())]

    def _create(self, kind, body):
        check = getattr(self, '_new_' + kind, None)
        return self._add(kind, check(dict(body)) if check else body)

    def _rules(self, body):
        rules = [self._add('security_group_rule', rule) for rule in body['security_group_rules']]
        for rule in rules:
            self._get('security_group', rule['security_group_id'])['security_group_rules'].append(rule)
        return {'security_group_rules': rules}

    def _new_security_group(self, body):
        return body | {'security_group_rules': []}

    def _new_subnet(self, body):
        network = ipaddress.ip_network(body['cidr'])
        pools = body.get('allocation_pools') or [{'start': str(network[2]), 'end': str(network[-2])}]
        for edge in itertools.chain.from_iterable(pool.values() for pool in pools):
            if ipaddress.ip_address(edge) not in network:
                raise Refused(f'allocation pool edge {edge} is not in {network}')
        self._get('network', body['network_id'])
        return body | {'allocation_pools': pools, 'routers': []}

    def _new_port(self, body):
        network = self._get('network', body['network_id'])
        fixed = []
        for wish in body['fixed_ips']:
            subnet = self._get('subnet', wish['subnet_id'])
            taken = {ip['ip_address'] for p in self.things.get('port', {}).values() for ip in p['fixed_ips']
                     if ip['subnet_id'] == subnet['id']} | {subnet['gateway_ip']}
            address = wish.get('ip_address') or next(a for a in self._pool(subnet) if a not in taken)
            if address in taken:
                raise Refused(f'address {address} is in use')
            if ipaddress.ip_address(address) not in ipaddress.ip_network(subnet['cidr']):
                raise Refused(f'address {address} is not in {subnet["cidr"]}')
            fixed.append({'subnet_id': subnet['id'], 'ip_address': address})
        for group in body.get('security_groups', []):
            self._get('security_group', group)
        return body | {'fixed_ips': fixed, 'network_id': network['id'], 'mac_address': 'fa:16:3e:00:00:01'}

    def _pool(self, subnet):
        for pool in subnet['allocation_pools']:
            first, last = (int(ipaddress.ip_address(pool[edge])) for edge in ('start', 'end'))
            yield from (str(ipaddress.ip_address(number)) for number in range(first, last + 1))

    def add_interface_router(self, router, body):
        self._get('subnet', body['subnet_id'])['routers'].append(self._get('router', router)['id'])

    def remove_interface_router(self, router, body):
        self._get('subnet', body['subnet_id'])['routers'].remove(self._get('router', router)['id'])

    def _new_floatingip(self, body):
        if not self._get('network', body['floating_network_id']).get('router:external'):
            raise Refused('the floating network is not external')
        if body.get('port_id'):
            subnet = self._get('subnet', self._get('port', body['port_id'])['fixed_ips'][0]['subnet_id'])
            gateways = [self._get('router', r)['external_gateway_info']['network_id'] for r in subnet['routers']]
            if body['floating_network_id'] not in gateways:
                raise Refused(f'External network is not reachable from subnet {subnet["cidr"]}')
        return body | {'floating_ip_address': next(self.outside)}


class Server(types.SimpleNamespace):
    """What novaclient hands out."""

    def to_dict(self):
        return dict(self.__dict__)

    def interface_list(self):
        return [types.SimpleNamespace(port_id=port['id'], net_id=port['network_id'], mac_addr=port['mac_address'], fixed_ips=port['fixed_ips'])
                for port in self.ports]


class Nova:
    """Servers, server groups, flavors and key pairs."""

    def __init__(self, neutron, flavors, keys):
        self.neutron = neutron
        self.all = {}
        self.gone = []
        self.groups = {}
        known = lambda names: types.SimpleNamespace(get=self._named(names), find=lambda name: self._named(names)(name))
        self.flavors = known(flavors)
        self.keypairs = known(keys)
        self.servers = types.SimpleNamespace(
            create=self.create, get=self.get, set_meta=self.set_meta, delete_meta=self.delete_meta,
            delete=self.delete, force_delete=self.delete)
        self.server_groups = types.SimpleNamespace(create=self.create_group, get=lambda i: self.groups[i], delete=self.groups.pop)

    def _named(self, names):
        def get(name):
            if name not in names:
                raise nova_errors.NotFound(404, f'{name} is not here')
            return types.SimpleNamespace(id=name, name=name, ram=4096, disk=20)
        return get

    def create_group(self, **what):
        group = Server(id=str(uuid.uuid4()), **what)
        self.groups[group.id] = group
        return group

    def create(self, name, userdata, meta, nics, scheduler_hints=None, config_drive=None, **rest):
        size = len(base64.b64encode(userdata.encode()))
        if size > USER_DATA_BYTES:
            raise Refused(f'{name}: user data has {size} bytes, more than {USER_DATA_BYTES}')
        self._check_meta(name, meta)
        if (scheduler_hints or {}).get('group') not in (None, *self.groups):
            raise Refused(f'{name}: unknown server group')
        ports = [self.neutron._get('port', nic['port-id']) for nic in nics]
        server = Server(id=str(uuid.uuid4()), name=name, status='ACTIVE', metadata=dict(meta), userdata=userdata,
                        config_drive=config_drive, hints=scheduler_hints or {}, ports=ports, addresses={}, networks={},
                        image=rest['image'], flavor=rest['flavor'])
        for port in ports:
            port['device_id'] = server.id
        self.all[server.id] = server
        return server

    def _check_meta(self, name, meta):
        if len(meta) > METADATA_ITEMS:
            raise Refused(f'{name}: {len(meta)} metadata items')
        for key, value in meta.items():
            if len(value) > METADATA_BYTES or len(key) > METADATA_BYTES:
                raise Refused(f'{name}: metadata {key} has {len(value)} characters, more than {METADATA_BYTES}')

    def get(self, server):
        ident = getattr(server, 'id', server)
        if ident not in self.all:
            raise nova_errors.NotFound(404, f'server {ident} is not here')
        return self.all[ident]

    def set_meta(self, server, meta):
        self._check_meta(server.name, meta)
        self.get(server).metadata.update(meta)

    def delete_meta(self, server, keys):
        for key in keys:
            del self.get(server).metadata[key]

    def delete(self, server):
        gone = self.get(server)
        del self.all[gone.id]
        self.gone.append(gone)


class Glance:
    """Images, by name."""

    def __init__(self, names):
        self.images = types.SimpleNamespace(
            list=lambda filters: [types.SimpleNamespace(id=n, name=n, status='active', min_ram=0, min_disk=0) for n in names if n == filters.get('name')],
            get=lambda ident: types.SimpleNamespace(id=ident, name=ident, status='active', min_ram=0, min_disk=0))


class Cloud:
    """All of it."""

    def __init__(self, external_network='public', images=('debian-12',), flavors=('m1.small', 'm1.medium', 'm1.large'), keys=('ops',)):
        self.neutron = Neutron(external_network)
        self.nova = Nova(self.neutron, flavors, keys)
        self.glance = Glance(images)
