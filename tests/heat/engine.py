"""The real Heat engine in this process: no messaging, no database server, no threads, and a cloud in memory.

Templates and environments are read by heatclient, as `openstack stack create` reads them.
"""

import json
import logging
import os
import tempfile
import warnings

warnings.filterwarnings('ignore')
logging.disable(logging.CRITICAL)

from oslo_service import backend  # noqa: E402
backend.init_backend(backend.BackendType.THREADING)

from oslo_config import cfg  # noqa: E402
from oslo_db import options as db_options  # noqa: E402
from oslo_messaging.rpc import dispatcher  # noqa: E402
from heat.common import config, context, messaging, policy  # noqa: E402,F401
from heat.db import api as db_api, models  # noqa: E402
from heat.engine import resources, scheduler, service  # noqa: E402
from heat.engine.clients.os import glance, heat_plugin, keystone, neutron, nova  # noqa: E402
from heat.engine.clients.os.keystone import fake_keystoneclient  # noqa: E402
from heat.engine.resources.openstack.heat import wait_condition  # noqa: E402
from heat.rpc import client as rpc_client  # noqa: E402
from heatclient.common import template_utils  # noqa: E402

WAITING = wait_condition.HeatWaitCondition._wait
# The database's connection is kept by Heat, so all engines of a process have one.
DIRECTORY = tempfile.TemporaryDirectory()


class Inline(service.ThreadGroupManager):
    """Does at once what the engine would do in a thread."""

    def start(self, stack_id, func, *args, **kwargs):
        thread = service.ThreadWithCallback(target=func, args=args, kwargs=kwargs)
        thread.run()
        return thread

    def stop(self, stack_id, graceful=False):
        pass

    def stop_timers(self, stack_id):
        pass


class Engine:
    """Creates and updates stacks in `cloud`. `boot(server)` is asked for the signal that a server sends."""

    def __init__(self, cloud, boot):
        self.cloud = cloud
        self.boot = boot
        self._configure()
        self._connect()
        self.service = service.EngineService('host', 'engine')
        self.service.engine_id = 'engine'
        self.service.thread_group_mgr = Inline()
        self.context = context.RequestContext.from_dict({
            'tenant_id': 'project', 'tenant': 'project', 'username': 'ops', 'user_id': 'ops', 'password': '',
            'roles': ['member'], 'is_admin': False, 'auth_url': 'http://keystone.invalid/v3', 'auth_token': 'token'})
        resources.initialise()

    def _configure(self):
        conf = cfg.CONF
        conf([], project='heat', default_config_files=[], default_config_dirs=[])
        db_options.set_defaults(conf, connection=f'sqlite:///{DIRECTORY.name}/heat.db')
        db_options.cfg.set_defaults(db_options.database_opts, sqlite_synchronous=False)
        conf.set_override('convergence_engine', False)
        conf.set_override('deferred_auth_method', 'password')
        conf.set_override('reauthentication_auth_method', '')
        conf.set_override('environment_dir', DIRECTORY.name)
        conf.set_override('template_dir', DIRECTORY.name)
        conf.set_override('auth_encryption_key', 'x' * 32)
        conf.set_override('error_wait_time', None)
        conf.set_override('action_retry_limit', 0)
        scheduler.ENABLE_SLEEP = False
        messaging.setup('fake://', optional=True)
        models.BASE.metadata.create_all(db_api.get_engine())

    def _connect(self):
        cloud = self.cloud
        engine = self
        keystone.KeystoneClientPlugin._create = lambda plugin: fake_keystoneclient.FakeKeystoneClient(context=plugin.context)
        neutron.NeutronClientPlugin._create = lambda plugin: cloud.neutron
        neutron.NeutronClientPlugin.find_resourceid_by_name_or_id = (
            lambda plugin, kind, name, cmd_resource=None: cloud.neutron.find(kind, name))
        nova.NovaClientPlugin._create = lambda plugin, version=None: cloud.nova
        nova.NovaClientPlugin.get_max_microversion = lambda plugin: '2.90'
        nova.NovaClientPlugin.is_version_supported = lambda plugin, version: True
        nova.NovaClientPlugin.absolute_limits = lambda plugin: {'maxServerMeta': 128, 'maxPersonality': 5, 'maxPersonalitySize': 10240}
        glance.GlanceClientPlugin._create = lambda plugin, version=None: cloud.glance
        policy.ResourceEnforcer.enforce = lambda *args, **kwargs: True
        heat_plugin.HeatClientPlugin.get_heat_url = lambda plugin: 'http://heat.invalid:8004/v1/project'

        def call(_client, ctxt, message, version=None, timeout=None):
            method, arguments = message
            try:
                return getattr(engine.service, method)(ctxt, **arguments)
            except dispatcher.ExpectedException as expected:
                raise expected.exc_info[1] from None
        rpc_client.EngineClient.call = call
        rpc_client.EngineClient.cast = call

        # A server answers while its wait condition waits.
        def wait(condition, handle, started_at, timeout_in):
            if not handle.metadata_get(refresh=True):
                engine._signal(handle)
            return WAITING(condition, handle, started_at, timeout_in)
        wait_condition.HeatWaitCondition._wait = wait

    def _signal(self, handle):
        endpoint = handle.data().get('endpoint')
        senders = [s for s in self.cloud.nova.all.values() if f'"{endpoint}"' in s.userdata]
        if len(senders) != 1:
            raise RuntimeError(f'{len(senders)} servers know how to signal {handle.stack.name}')
        handle.handle_signal(self.boot(senders[0]))

    def read(self, template, environments=(), parameters=None):
        """What `openstack stack create -t TEMPLATE -e ENVIRONMENT --parameter K=V` would send."""
        files, body = template_utils.get_template_contents(template)
        more, environment = template_utils.process_multiple_environments_and_files(list(environments))
        text = {name: content.decode() if isinstance(content, bytes) else content for name, content in (files | more).items()}
        environment.setdefault('parameters', {}).update(parameters or {})
        return {'template': body, 'params': environment, 'files': text}

    def _run(self, method, *args, **what):
        try:
            return getattr(self.service, method)(self.context, *args, environment_files=None, files_container=None, **what)
        except dispatcher.ExpectedException as expected:
            raise expected.exc_info[1] from None

    def validate(self, read):
        return self._run('validate_template', **read)

    def create(self, name, read):
        identifier = self._run('create_stack', stack_name=name, args={'timeout_mins': 60}, **read)
        return self.show(identifier)

    def update(self, stack, read):
        self._run('update_stack', stack['stack_identity'], args={'timeout_mins': 60}, **read)
        return self.show(stack['stack_identity'])

    def show(self, identifier):
        shown = self.service.show_stack(self.context, identifier)[0]
        shown['values'] = {output['output_key']: output['output_value'] for output in shown.get('outputs', [])}
        shown['errors'] = {output['output_key']: output['output_error'] for output in shown.get('outputs', []) if 'output_error' in output}
        return shown


def dump(cloud, directory):
    """Writes what every server was given: user_data and meta_data.json as a config drive has them."""
    for server in cloud.nova.all.values():
        drive = os.path.join(directory, server.name, 'openstack', 'latest')
        os.makedirs(drive, exist_ok=True)
        with open(os.path.join(drive, 'user_data'), 'w', encoding='utf-8') as file:
            file.write(server.userdata)
        with open(os.path.join(drive, 'meta_data.json'), 'w', encoding='utf-8') as file:
            json.dump({'name': server.name, 'hostname': server.name, 'uuid': server.id, 'meta': server.metadata}, file, indent=2)
