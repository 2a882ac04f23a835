# @summary The control plane of servers: Nova's interfaces behind the proxies, conductor and scheduler.
class stacktira::profile::nova {
  include stacktira::openstack
  include stacktira::openstack::control
  include stacktira::openstack::nova

  $primary = $stacktira::openstack::primary
  if $primary {
    class { 'nova::db::mysql': * => stacktira::openstack::database('nova') }
    class { 'nova::db::mysql_api': * => stacktira::openstack::database('nova') }
    class { 'nova::db::sync_api': cellv2_setup => true }
    if $stacktira::openstack::several {
      # The record of a cell would send every node to the elected one's database. As templates it sends each to its own.
      $parts = $stacktira::openstack::message_addresses.map |$index, $address| {
        $number = $index + 1
        "{username${number}}:{password${number}}@{hostname${number}}:{port${number}}"
      }
      $database = '{scheme}://{username}:{password}@{hostname}'
      $update = 'runuser -u nova -- nova-manage cell_v2 update_cell'
      exec { 'stacktira: cells by templates':
        command   => join([
          "${update} --cell_uuid 00000000-0000-0000-0000-000000000000 --transport-url none:/// --database_connection '${database}/nova_cell0'",
          "${update} --cell_uuid \"$(mysql -N nova_api -e \"select uuid from cell_mappings where name = 'default'\")\" --transport-url '{scheme}://${parts.join(',')}/' --database_connection '${database}/{path}'",
        ], ' && '),
        unless    => 'test "$(mysql -N nova_api -e "select count(*) from cell_mappings where database_connection like \'{scheme}%\'")" = 2',
        path      => ['/usr/sbin', '/usr/bin', '/sbin', '/bin'],
        provider  => shell,
        logoutput => on_failure,
        before    => Anchor['nova::service::begin'],
      }
      Nova_cell_v2 <| |> -> Exec['stacktira: cells by templates']
    }
  }
  class { 'nova::db':
    database_connection     => stacktira::openstack::database_url('nova'),
    api_database_connection => stacktira::openstack::database_url('nova', 'nova_api'),
  }
  stacktira::openstack::identity { 'nova':
    port => 8774,
    path => '/v2.1',
  }
  class { 'nova::keystone::authtoken': * => stacktira::openstack::authtoken('nova') }
  class { 'nova::metadata': neutron_metadata_proxy_shared_secret => lookup('metadata_shared_secret') }
  class { 'nova::api':
    sync_db     => $primary,
    sync_db_api => $primary,
  }
  include nova::wsgi::uwsgi_api
  include nova::wsgi::uwsgi_api_metadata
  include nova::conductor
  include nova::scheduler
  stacktira::openstack::follower { 'nova': service => 'nova-conductor' }

  stacktira::service { 'nova-api':
    port  => 8774,
    tags  => ['haproxy::balanced'],
    check => { 'http' => "http://${stacktira::address}:8774/", 'interval' => '5s', 'timeout' => '5s' },
  }
  stacktira::service { 'nova-metadata':
    port  => 8775,
    tags  => ['haproxy::balanced'],
    check => { 'http' => "http://${stacktira::address}:8775/", 'interval' => '5s', 'timeout' => '5s' },
  }
  # Hypervisors cannot start before a conductor answers, and it has no port to be seen by.
  stacktira::unit_service { 'nova-conductor':
    require => Anchor['nova::install::end'],
    before  => Anchor['nova::service::begin'],
  }
}
